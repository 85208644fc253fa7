"""The work behind the tabs: functions of files and options that write files into a folder.

They know nothing of the browser, and run in a process of their own (`flowmatch.app.job`).
"""

from flowmatch.app.tasks.alignment import alignment_of_pictures
from flowmatch.app.tasks.clip import flow_of_clip
from flowmatch.app.tasks.flow import flow_of_pictures
from flowmatch.app.tasks.matches import matches_of_pictures
from flowmatch.app.tasks.panorama import panorama_of_photos
from flowmatch.app.tasks.result import Shown, TaskResult
from flowmatch.app.tasks.scans import registration_of_scans

__all__ = [
    "Shown",
    "TaskResult",
    "alignment_of_pictures",
    "flow_of_clip",
    "flow_of_pictures",
    "matches_of_pictures",
    "panorama_of_photos",
    "registration_of_scans",
]
