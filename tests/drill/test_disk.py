"""What a power cut takes, on a real file system, in a process of its own: what is watched cannot be let go again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import json, os, sys
from pathlib import Path
from openrs.drill.disk import Disk
from openrs.runs.files import append_line, sync_directory, write_atomic
root = Path(sys.argv[1])
count = 0
def operation():
    global count
    count += 1
disk = Disk([root / "tree", root / "lines"], operation)
disk.install()
tree = root / "tree"
write_atomic(tree / "whole", "safe")
(tree / "unsynced").write_text("in the page cache")
append_line(root / "lines", {"a": 2})
with open(root / "lines", "a") as file:
    file.write("cut")
(tree / "renamed.tmp").write_bytes(b"")
os.rename(tree / "renamed.tmp", tree / "renamed")
os.rename(tree / "old", tree / "new")
sync_directory(tree)
(tree / "late.tmp").write_bytes(b"")
os.rename(tree / "late.tmp", tree / "late")
# A file whose inode a removed and durable one may have had before.
for number in range(20):
    (tree / f"gone-{number}").unlink()
    (tree / f"fresh-{number}").write_bytes(b"x" * 100)
(tree / "elsewhere").write_bytes(b"")
counted = count
disk.freeze()
lost = disk.lose()
print(json.dumps({"lost": lost, "counted": counted}))
"""


def test_a_power_cut_takes_what_is_not_durable(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "before").write_text("was here before")
    (tree / "old").write_text("named")
    for number in range(20):
        (tree / f"gone-{number}").write_bytes(b"y" * 200)
    (tmp_path / "lines").write_text('{"a": 1}\n')
    (tmp_path / "other").write_text("not watched")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (tree / "whole").read_text() == "safe" and (tree / "before").read_text() == "was here before"
    assert (tree / "unsynced").read_bytes() == b"" and "17 bytes of unsynced" in said["lost"]
    assert (tmp_path / "lines").read_text() == '{"a": 1}\n{"a": 2}\n' and "3 bytes of lines" in said["lost"]
    assert (tree / "renamed").exists() and (tree / "new").read_text() == "named"
    assert not (tree / "late").exists() and (tree / "late.tmp").exists() and "the name late" in said["lost"]
    assert all((tree / f"fresh-{number}").read_bytes() == b"" for number in range(20))
    # Each open for writing, rename, removal and fsync, and no more.
    opens, renames, removals, fsyncs = 2 + 4 + 20 + 1, 4, 20, 4
    assert said["counted"] == opens + renames + removals + fsyncs
