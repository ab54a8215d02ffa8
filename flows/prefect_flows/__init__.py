"""The Prefect flows, their deployments and the server's watch over silent runs; open ``analyze_flow.py`` first.

May import the journeys in ``flows/`` and the other packages, not ``flows.cli``. Prefect has its place here.
"""

from flows.prefect_flows.quiet_exit import end_loops_at_exit

end_loops_at_exit()
