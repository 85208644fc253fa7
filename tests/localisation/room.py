"""A rendered room with RGB-D frames: a wall of known texture, seen by cameras of known pose."""

import numpy as np
from skimage import data

from flowmatch._opencv import cv2
from flowmatch.io import write_image

K = np.array([[400.0, 0, 160], [0, 400, 120], [0, 0, 1]])


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
