"""A run whose machine died ends as Crashed within minutes: runs send heartbeats, and the server misses them.

``python -m flows.prefect_flows.heartbeats`` tells a server once what ``mfer serve`` tells its own.
"""

from __future__ import annotations

from datetime import timedelta

from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

__all__ = ["watch_heartbeats"]

_NAME = "mfer: runs without a heartbeat have crashed"
#: Runs send one every 30 s (``PREFECT_FLOWS_HEARTBEAT_FREQUENCY``, the least that Prefect takes): three are missed.
_SILENT_S = 90
#: Events have the names of states, ours among them: a run that ended needs no heartbeat.
_ENDS = ("Completed", "Failed", "Crashed", "Cancelled", "Cancelling", "Suspended", "Paused", "AwaitingRetry")
_OUR_ENDS = ("CompletedWithFailures", "CandidateRefused", "DriftFound")


def watch_heartbeats() -> bool:
    """Have the server mark a run as Crashed that has sent heartbeats and then none for 90 s.

    Returns:
        Whether the server learned it now; False: it knew.
    """
    with get_client(sync_client=True) as client:
        if client.read_automations_by_name(_NAME):
            return False
    ends = {f"prefect.flow-run.{name}" for name in (*_ENDS, *_OUR_ENDS)}
    trigger = EventTrigger(
        after={"prefect.flow-run.heartbeat"},
        expect={"prefect.flow-run.heartbeat", *ends},
        match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=_SILENT_S),
    )
    message = f"no heartbeat for {_SILENT_S} s: its process or machine died; run it again, finished videos are kept"
    crash = ChangeFlowRunState(name="Crashed", state=StateType.CRASHED, message=message, force=False)
    Automation(name=_NAME, trigger=trigger, actions=[crash]).create()
    return True


if __name__ == "__main__":
    print("runs without a heartbeat will end as Crashed" if watch_heartbeats() else "the server knew that already")
