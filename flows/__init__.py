"""The journeys of the product: what a person, a schedule or a cluster starts.

``run.py`` says what a run is about, as plain values; ``analyze.py`` is the file to open first. ``cli/`` is the command
line, ``prefect_flows/`` the same on a server, ``workers/`` the processes that do the work. May import everything.
"""
