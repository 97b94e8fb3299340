"""Files into a guest and out of it: see files.py for what every copy has in common."""

from okubsd.host.copying.files import Files, Progress, files_of, part_name, spoken_by
from okubsd.host.copying.inward import fetch
from okubsd.host.copying.outward import send
from okubsd.host.copying.trees import fetch_tree, parse_tree, send_tree

__all__ = [
    "Files",
    "Progress",
    "fetch",
    "fetch_tree",
    "files_of",
    "parse_tree",
    "part_name",
    "send",
    "send_tree",
    "spoken_by",
]
