"""What the driver tests share: where to connect to, and how a passed check is told."""

import os
import sys

HOST = os.environ["PGWEIR_HOST"]
PORT = int(os.environ["PGWEIR_PORT"])
USER = os.environ["PGWEIR_USER"]
PASSWORD = os.environ["PGWEIR_PASSWORD"]
DATABASE = os.environ["PGWEIR_DATABASE"]
# The pool's mode: what only holds in session mode is tested only there.
SESSION = os.environ["PGWEIR_MODE"] == "session"
# Makes names that no other run uses.
MARK = os.environ["PGWEIR_MARK"]

URL = f"postgresql://{USER}:{PASSWORD}@{HOST}:{PORT}/{DATABASE}"


def ok(name):
    print("ok", name)
    sys.stdout.flush()


def same(got, expected):
    assert got == expected, f"got {got!r}, expected {expected!r}"
