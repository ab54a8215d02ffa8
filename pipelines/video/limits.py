"""How much one file may claim: whoever sends videos may be hostile, and a header of a few bytes can ask for anything.

Each limit is far beyond what cameras make and within what a machine survives. A file beyond one is refused with
``too_large`` before memory for it is asked for.
"""

from __future__ import annotations

__all__ = [
    "BATCH_BYTES",
    "MAX_DURATION_S",
    "MAX_FRAMES",
    "MAX_PIXELS",
    "MAX_PIXELS_PER_BYTE",
    "MAX_PIXELS_UNPROVEN",
    "MAX_STREAMS",
    "MAX_TIME_S",
]

#: Pixels of one frame, stored and as shown: twice 8K (33 million), and the 11K x 5.5K of panorama cameras. A frame of
#: that size is 200 MB as RGB, and decoders hold several.
MAX_PIXELS = 2**26
#: Frames of one video, in the file and promised by its header: 92 hours at 30 a second. Each costs about 100 bytes
#: while a file is scanned, so this is 1 GB.
MAX_FRAMES = 10_000_000
#: From the first frame to the last: a year, for time-lapse pictures with their real times.
MAX_DURATION_S = 366 * 86_400.0
#: Distance of any time from zero. Cameras count from 1970 or from their last start; up to here a float64 in seconds
#: tells microseconds apart.
MAX_TIME_S = 2.0**33
#: Streams of one file. libav opens a decoder for each while it probes; subtitles and the fonts for them are many.
MAX_STREAMS = 256
#: Decoded pixels for each byte of the file, and how many pixels are let pass whatever the ratio. Codecs that repeat a
#: still picture reach some 100,000 per byte; a tiny GIF that paints its canvas again and again reaches more, and
#: costs hours. Five hours of full HD are 10^12 pixels.
MAX_PIXELS_PER_BYTE = 1_000_000
MAX_PIXELS_UNPROVEN = 10**12
#: Decoded frames that are held for one batch; frames of 8K make smaller batches, and one frame is always allowed.
BATCH_BYTES = 400_000_000
