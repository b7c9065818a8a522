"""Fail when a test was skipped that `.ci/skips.txt` does not allow (one reason a line)."""

import pathlib
import re
import sys

allowed = [
    line.strip()
    for line in pathlib.Path(__file__).with_name("skips.txt").read_text().splitlines()
    if line.strip() and not line.startswith("#")
]
log = pathlib.Path(sys.argv[1]).read_text(errors="replace")
skipped = re.findall(r"^SKIPPED \[\d+\] \S+ (.*)$", log, re.MULTILINE)
surplus = [reason for reason in skipped if not any(reason.startswith(text) for text in allowed)]
for reason in surplus:
    sys.stderr.write(f"skipped without leave: {reason}\n")
if not re.search(r"^=+ .*\d+ passed", log, re.MULTILINE):
    sys.exit("no test passed")
sys.exit(bool(surplus))
