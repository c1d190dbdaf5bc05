"""Lists the commands with a line each."""

import ast
from pathlib import Path


def main() -> None:
    print("usage: python -m toolkit.bin.<command> --help\n")
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if not path.name.startswith("_"):
            summary = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()[0]
            print(f"  {path.stem:<10} {summary}")


if __name__ == "__main__":
    main()
