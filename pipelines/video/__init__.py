"""Files of video to frames with exact times, and back; open ``decode.py`` first.

May import the plain modules of ``pipelines`` (batches, settings, errors, heartbeat); knows no faces and no lake.
"""
