"""The package fer on labelled faces. Run by benchmarks/accuracy.py: `fer_faces.py PICTURES.npy PROBABILITIES.npz`."""

import sys

import cv2
import numpy as np
from fer.fer import FER

pictures = np.load(sys.argv[1])  # uint8 [N,H,W], each filled by its face as those are that fer was trained on
detector = FER(mtcnn=False, offsets=(0, 0))
rows = []
for picture in pictures:
    bgr = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    (found,) = detector.detect_emotions(bgr, face_rectangles=[(0, 0, picture.shape[1], picture.shape[0])])
    rows.append(list(found["emotions"].values()))
np.savez(sys.argv[2], prob=np.array(rows, np.float32), names=list(found["emotions"]))
