"""What one would write without this project: OpenCV, MTCNN on every frame, a timm network on each face, a CSV file.

Run by benchmarks/speed.py, which puts opencv-python-headless into a folder of its own: `plain_script.py VIDEO FRAMES`.
"""

import csv
import os
import sys

import cv2
import timm
import torch
from facenet_pytorch import MTCNN

torch.set_num_threads(1)
cv2.setNumThreads(1)
video, n_frames = sys.argv[1], int(sys.argv[2])
detector = MTCNN(keep_all=True, image_size=224, margin=20, post_process=True).eval()
network = timm.create_model("convnext_tiny", pretrained=False, num_classes=8).eval()
capture = cv2.VideoCapture(video)
with open(os.devnull, "w", newline="") as file, torch.inference_mode():
    rows = csv.writer(file)
    for index in range(n_frames):
        ok, bgr = capture.read()
        if not ok:
            break
        faces = detector(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
        for face in faces if faces is not None else []:
            rows.writerow([index, *torch.softmax(network(face[None]), 1)[0].tolist()])
