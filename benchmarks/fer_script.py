"""The package fer on every frame, with its MTCNN. Run by benchmarks/speed.py: `fer_script.py VIDEO FRAMES`."""

import sys

import cv2
from fer.fer import FER

cv2.setNumThreads(1)
video, n_frames = sys.argv[1], int(sys.argv[2])
detector = FER(mtcnn=True)
capture = cv2.VideoCapture(video)
for _ in range(n_frames):
    ok, bgr = capture.read()
    if not ok:
        break
    detector.detect_emotions(bgr)
