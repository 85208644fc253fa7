"""A rendered room with RGB-D frames: a wall of known texture, seen by cameras of known pose."""

import struct

import numpy as np
from scipy.spatial.transform import Rotation
from skimage import data

from flowmatch._opencv import cv2
from flowmatch.io import write_image

K = np.array([[400.0, 0, 160], [0, 400, 120], [0, 0, 1]])
COLMAP_CAMERA = [400.0, 400.0, 160.5, 120.5]  # the centre of the first pixel is (0.5, 0.5)


def render(texture, pose):
    """Return picture and depth of the plane z = 3 m; a pixel of its texture is 1 cm."""
    view = np.linalg.inv(pose)
    plane = np.array([[0.01, 0, -2.5], [0, 0.01, -2.5], [0, 0, 3], [0, 0, 1]])
    homography = K @ view[:3] @ plane[:, [0, 1, 2]]
    picture = cv2.warpPerspective(texture, homography, (320, 240), borderMode=cv2.BORDER_REFLECT)
    y, x = np.mgrid[:240, :320]
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(K).T
    return picture, (3 - pose[2, 3]) / (rays @ pose[2, :3])


def pose_at(x, y, z, turn):
    pose = np.eye(4)
    pose[:3, :3] = cv2.Rodrigues(np.array(turn, np.float64))[0]
    pose[:3, 3] = x, y, z
    return pose


def write_room(folder, poses):
    """Write pictures, depth, poses and intrinsics of the wall, as PosedFolder reads them."""
    for name in ("color", "depth"):
        (folder / name).mkdir(parents=True)
    texture, lines = data.astronaut(), []
    for k, pose in enumerate(poses):
        picture, depth = render(texture, pose)
        write_image(folder / "color" / f"{k}.png", picture)
        cv2.imwrite(str(folder / "depth" / f"{k}.png"), np.rint(1000 * depth).astype(np.uint16))
        lines.append(" ".join([str(k), *map(str, pose.ravel())]))
    (folder / "poses.txt").write_text("\n".join(lines))
    np.savetxt(folder / "intrinsics.txt", K)


def write_model(folder, pictures, binary, model="PINHOLE"):
    """Write a model of COLMAP of pictures: name, camera-to-world pose, keypoints, their points."""
    folder.mkdir()
    rows, points = [], {}
    for number, (name, pose, xy, world) in enumerate(pictures, 1):
        view = np.linalg.inv(pose)
        quaternion = np.roll(Rotation.from_matrix(view[:3, :3]).as_quat(), 1)
        ids = [len(points) + k for k in range(len(xy))]
        points |= dict(zip(ids, world, strict=True))
        ids = [*ids, -1]  # and a keypoint without a point
        rows.append((number, [*quaternion, *view[:3, 3]], name, [*(xy + 0.5), (1.0, 1.0)], ids))
    if not binary:
        values = " ".join(map(str, COLMAP_CAMERA))
        (folder / "cameras.txt").write_text(f"# comment\n7 {model} 320 240 {values}\n")
        lines = ["# comment"]
        for number, pose, name, xy, ids in rows:
            lines.append(f"{number} {' '.join(map(repr, map(float, pose)))} 7 {name}")
            lines.append(" ".join(f"{x} {y} {k}" for (x, y), k in zip(xy, ids, strict=True)))
        (folder / "images.txt").write_text("\n".join(lines) + "\n")
        lines = [f"{k} {x} {y} {z} 9 9 9 0.5 1 0" for k, (x, y, z) in points.items()]
        (folder / "points3D.txt").write_text("\n".join(lines))
        return
    (folder / "cameras.bin").write_bytes(struct.pack("<QiiQQ4d", 1, 7, 1, 320, 240, *COLMAP_CAMERA))
    content = struct.pack("<Q", len(rows))
    for number, pose, name, xy, ids in rows:
        content += struct.pack("<i7di", number, *pose, 7) + name.encode() + b"\0"
        content += struct.pack("<Q", len(ids))
        content += b"".join(struct.pack("<ddq", *p, k) for p, k in zip(xy, ids, strict=True))
    (folder / "images.bin").write_bytes(content)
    content = struct.pack("<Q", len(points))
    for k, xyz in points.items():
        content += struct.pack("<Q3d3BdQ2i", k, *xyz, 9, 9, 9, 0.5, 1, 1, 0)
    (folder / "points3D.bin").write_bytes(content)
