"""Verifies an audit log of agentd with the Python package aics-tlog, which shares no code with agentd: signed note, checkpoint,
tiles, entry bundles, inclusion proofs and consistency proof. Arguments: the program agentd.
"""

import base64
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import aics_tlog as tlog

# Each refused call records three leaves. The log has a full tile of 256 hashes, and a part of another.
CALLS = 110
EARLIER = 40


def main(agentd):
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        environment = {**os.environ, "AGENTD_DATA_DIR": str(place / "data")}

        def run(*arguments, code=0):
            done = subprocess.run([agentd, *arguments], env=environment, cwd=place, capture_output=True, text=True)
            assert done.returncode == code, f"{arguments}: {done}"
            return done.stdout

        def record(calls):
            for number in range(calls):
                # A command that is a number is refused, so nothing is executed.
                run("call", "shell.exec.v1", "--params", json.dumps({"command": number}), code=77)

        record(EARLIER)
        earlier = run("audit", "checkpoint")
        record(CALLS - EARLIER)
        run("audit", "export", str(place / "log"))
        key = tlog.parse_vkey(run("signing-key", "show").split()[0])
        verify(place / "log", key, earlier, lambda *of: run("audit", "prove", *of), place)


def verify(log, key, earlier, prove, place):
    text = (log / "checkpoint").read_text()
    size, root = opened(text, key)
    assert size == 3 * CALLS, size
    reader = tlog.FileSystemTileReader(log)
    tlog.audit_tiles(reader, size, root)
    assert tlog.tree_root_from_tiles(reader, size) == root

    for index in (0, 1, 254, 255, 256, size - 1):
        hashes, note = proof(prove(str(index)), ["c2sp.org/tlog-proof@v1", f"index {index}"])
        assert note == text
        leaf = tlog.read_entry(reader, index, size)
        assert json.loads(leaf)["v"] == 1
        assert tlog.verify_leaf_inclusion(leaf, index, size, hashes, root)
        assert hashes == tlog.inclusion_proof_from_tiles(reader, index, size)
        assert not tlog.verify_leaf_inclusion(leaf + b" ", index, size, hashes, root)
        assert not tlog.verify_leaf_inclusion(leaf, index ^ 1, size, hashes, root)

    old_size, old_root = opened(earlier, key)
    assert old_size == 3 * EARLIER, old_size
    (place / "kept").write_text(earlier)
    hashes, note = proof(prove("--since", str(place / "kept")), [f"old {old_size}"])
    assert note == text
    assert tlog.verify_consistency(old_size, size, old_root, root, hashes)
    assert not tlog.verify_consistency(old_size, size, root, root, hashes)

    # The verifier finds changes: otherwise its acceptance shows nothing.
    for name in ("tile/entries/000", "tile/0/000"):
        changed = bytearray((log / name).read_bytes())
        changed[len(changed) // 2] ^= 1
        (log / name).write_bytes(changed)
        try:
            tlog.audit_tiles(tlog.FileSystemTileReader(log), size, root)
        except tlog.TileVerificationError:
            pass
        else:
            raise AssertionError(f"the changed file {name} was accepted")
        changed[len(changed) // 2] ^= 1
        (log / name).write_bytes(changed)
    forged = text.replace(f"\n{size}\n", f"\n{size + 1}\n", 1)
    assert not tlog.verify_checkpoint(tlog.parse_note(forged), key).ok


def opened(text, key):
    """Returns size and root of a checkpoint that this key has signed."""
    note = tlog.parse_note(text)
    result = tlog.verify_checkpoint(note, key)
    assert result.ok, result
    checkpoint = tlog.parse_checkpoint(note.text)
    return checkpoint.size, checkpoint.root


def proof(text, head):
    """Returns the hashes of a proof, and its checkpoint."""
    lines, note = text.split("\n\n", 1)
    lines = lines.split("\n")
    assert lines[: len(head)] == head, lines
    return [base64.b64decode(line, validate=True) for line in lines[len(head) :]], note


main(str(pathlib.Path(sys.argv[1]).resolve()))
print("aics-tlog accepts log, checkpoint and proofs")
