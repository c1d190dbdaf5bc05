"""Looks after processes whose parent was killed, in /proc."""

import time


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_end(pids: list[int]) -> None:
    for _ in range(600):
        if not any(map(is_running, pids)):
            return
        time.sleep(0.1)
    raise AssertionError("still running a minute after the parent was killed")
