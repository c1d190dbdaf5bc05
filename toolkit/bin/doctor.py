"""Says which packages, optional parts and devices were found, and what each is for."""

import argparse
import importlib
import os
import platform
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from toolkit.bin import run
from toolkit.bin._arguments import command_parser
from toolkit.errors import UserError
from toolkit.files import write_json
from toolkit.processes import num_cores
from toolkit.requirements import EXTRAS, Requirement, check, modules

EPILOG = """states:
  OK       found, in a tested version, and it works
  missing  not there; the line says what you do without and how to get it
  wrong    there, but in an untested version, or it cannot be imported
  low      there, but less than is comfortable

Exit code 0 says that everything required is OK; optional parts and low limits do not count.

examples:
  python -m toolkit.bin.doctor
  python -m toolkit.bin.doctor --exp /big/disk/exp --json doctor.json"""

GIGA = 1e9


@dataclass
class Finding:
    """One part that was looked for."""

    group: str
    """Heading it stands under."""
    part: str
    """Its name."""
    state: str
    """OK, missing, wrong or low."""
    found: str
    """Version or figure; empty if it is not there."""
    note: str
    """What it is for; what to do if it is not OK."""
    required: bool = False
    """Whether nothing works without it."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = command_parser("doctor", __doc__, EPILOG)
    command.add_argument("--exp", metavar="DIR", default="exp", help="where experiments go (%(default)s)")
    command.add_argument("--data", metavar="DIR", default="data", help="where data goes (%(default)s)")
    command.add_argument("--json", metavar="FILE", help="write all findings to FILE as JSON")
    return command


def main(argv: list[str] | None = None) -> None:
    """Looks, prints, writes, and fails if a required part is not OK."""
    args = parser().parse_args(argv)
    findings = packages() + devices() + limits([Path(args.data), Path(args.exp)])
    print(table(findings))
    if args.json:
        write_json(
            args.json, {"python": platform.python_version(), "findings": [asdict(f) for f in findings]}
        )
    bad = [finding.part for finding in findings if finding.required and finding.state != "OK"]
    if bad:
        raise UserError(f"required, but not OK: {', '.join(bad)}; see above")


def packages() -> list[Finding]:
    """The required packages, then the optional ones."""
    found = [_package("required packages", requirement, "pip install -e .") for requirement in check()]
    ways = {"k2": "tools/install_k2.sh", "kaldifeat": "tools/install_kaldifeat.sh"}
    for extra in EXTRAS:
        way = ways.get(extra, f'pip install -e ".[{extra}]"')
        found += [_package(f"optional packages [{extra}]", requirement, way) for requirement in check(extra)]
    return found


def _package(group: str, requirement: Requirement, way: str) -> Finding:
    required = group.startswith("required")
    found, purpose = requirement.installed or "", requirement.purpose
    if requirement.installed is None:
        return Finding(group, requirement.name, "missing", found, f"{purpose}; get it: {way}", required)
    if not requirement.ok:
        note = f"{purpose}; tested: {requirement.range}; get it: {way}"
        return Finding(group, requirement.name, "wrong", found, note, required)
    problem = _import_problem(requirement.name)
    if problem:
        return Finding(group, requirement.name, "wrong", found, f"does not import: {problem}", required)
    return Finding(group, requirement.name, "OK", found, purpose, required)


def _import_problem(distribution: str) -> str | None:
    """Imports a distribution's module; the reason in one line if that fails."""
    module = _module(distribution)
    if module is None:
        return None
    try:
        importlib.import_module(module)
    # A broken binary package may raise anything: ImportError, OSError, RuntimeError, AttributeError, ...
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return None


def _module(distribution: str) -> str | None:
    """The module to import for a distribution: the one of its name, else its first public one."""
    owned = [module for module in modules(distribution) if not module.startswith("_")]
    same = re.sub(r"[-.]", "_", distribution).lower()
    return same if same in owned else min(owned, default=None)


def devices() -> list[Finding]:
    """Processor, GPUs, and what makes them fast."""
    group = "devices"
    cores = num_cores()
    processor = f"{cores} cores, {platform.machine()}"
    try:
        import torch
    except (ImportError, OSError):
        return [Finding(group, "CPU", "OK", processor, "torch is not there to ask about more")]
    threads = f"{processor}, {torch.get_num_threads()} threads (OMP_NUM_THREADS sets them)"
    found = [Finding(group, "CPU", "OK", threads, "everything runs on it, at the speed of small models")]
    if not torch.cuda.is_available():
        reason = "this torch is built for CPUs" if torch.version.cuda is None else "no driver or no device"
        return [*found, Finding(group, "CUDA", "missing", "", f"fast training; {reason}")]
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if gpu.major >= 8 else "no bf16 (use fp16)"
        figures = f"{gpu.name}, {gpu.total_memory / GIGA:.0f} GB, sm_{gpu.major}{gpu.minor}, {bf16}"
        found.append(
            Finding(group, f"cuda:{index}", "OK", figures, f"fast training, CUDA {torch.version.cuda}")
        )
    nccl = torch.distributed.is_available() and torch.distributed.is_nccl_available()
    state = "OK" if nccl else "missing"
    found.append(Finding(group, "NCCL", state, "", "several GPUs: torchrun --nproc-per-node N"))
    return found


def limits(folders: list[Path]) -> list[Finding]:
    """Memory, disk, and the two limits of the system that loader workers run into."""
    group = "limits"
    found = [_amount(group, "memory", _memory(), 4, "at least 4 GB for egs/mini")]
    for folder in folders:
        place = next(path for path in [folder.resolve(), *folder.resolve().parents] if path.exists())
        free = shutil.disk_usage(place).free
        found.append(_amount(group, f"disk for {folder}", free, 5, "at least 5 GB for egs/mini"))
    if Path("/dev/shm").is_dir():
        note = "loader workers hand batches over through it; in Docker: --shm-size 8g; or num_workers 0"
        found.append(_amount(group, "/dev/shm", shutil.disk_usage("/dev/shm").total, 1, note))
    found.append(_open_files(group))
    return found


def _amount(group: str, part: str, size: float, enough: float, note: str) -> Finding:
    state = "OK" if size >= enough * GIGA else "low"
    return Finding(group, part, state, f"{size / GIGA:.1f} GB", note)


def _memory() -> float:
    """Bytes of memory that this process may use: the machine's, or the container's where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return total if text == "max" else min(total, int(text))


def _open_files(group: str) -> Finding:
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    unlimited = soft == resource.RLIM_INFINITY
    state = "OK" if unlimited or soft >= 1024 else "low"
    found = "unlimited" if unlimited else str(soft)
    return Finding(group, "open files", state, found, "workers open many files; to raise it: ulimit -n 4096")


def table(findings: list[Finding]) -> str:
    """The findings under their headings, one a line."""
    lines = [f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"]
    width = max(len(finding.part) for finding in findings)
    group = ""
    for finding in findings:
        if finding.group != group:
            group = finding.group
            lines += ["", group]
        text = f"{finding.found}: {finding.note}" if finding.found else finding.note
        lines.append(f"  {finding.state:<8} {finding.part:<{width}}  {text}")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
