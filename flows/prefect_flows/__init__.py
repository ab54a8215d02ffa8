"""The Prefect flows, their deployments and the server's watch over silent runs; open ``analyze_flow.py`` first.

May import the journeys in ``flows/`` and the other packages, not ``flows.cli``. Prefect has its place here.
"""
