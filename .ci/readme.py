"""Checks that the README tells the truth, as far as that can be looked up.

Rust blocks must stand in an example word for word, tests that are named (here and in the list of
promises) must exist, links must lead to files of this repository, and settings must be those of the programs.
"""

import pathlib
import re
import sys

# What is promised, beside the crates that keep it.
PROMISES = ["iris-crypto/PROMISES.md", "iris-coordinator/PROMISES.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")
NAME = re.compile(r"`([a-z_0-9]+)`")
VARIABLE = re.compile(r"`([A-Z][A-Z_]{3,})`")
FLAG = re.compile(r"`(--[a-z-]+)")


def main():
    text = pathlib.Path("README.md").read_text(encoding="utf-8")
    faults = [*snippets(text), *tests(text), *links(text), *settings(text)]
    for path in PROMISES:
        promises = pathlib.Path(path).read_text(encoding="utf-8")
        faults += [f"{path}: {fault}" for fault in tests(promises)]
    for fault in faults:
        print(f"error: README.md: {fault}")
    print(f"README.md: {len(faults)} faults")
    return 1 if faults else 0


def snippets(text):
    examples = [path.read_text(encoding="utf-8") for path in pathlib.Path("examples").glob("*.rs")]
    for language, code in FENCE.findall(text):
        if language == "rust" and not any(code in example for example in examples):
            yield f"no example has this code:\n{code}"


def tests(text):
    sources = "\n".join(read_all("*.rs") + read_all("test_*.py", ".ci"))
    known = set(re.findall(r"\b(?:fn|def) (\w+)\(", sources))
    for table in text.split("| backed by |")[1:]:
        for row in table.split("\n\n")[0].splitlines()[2:]:
            names = NAME.findall(row.rstrip("|").rsplit("|", 1)[1])
            if not names:
                yield f"no test backs this line: {row}"
            for name in names:
                if name not in known:
                    yield f"there is no test {name}"


def links(text):
    for target in LINK.findall(text):
        if not pathlib.Path(target).exists():
            yield f"{target} does not exist"


def settings(text):
    part = text.split("\n## Settings\n")[1].split("\n## ")[0]
    for heading, body in re.findall(r"\*\*(iris[a-z-]*)\*\*\n(.*?)(?=\n\*\*|\Z)", part, re.DOTALL):
        crate = "iris-client" if heading == "iris" else heading
        source = "\n".join(read_all("*.rs", f"{crate}/src"))
        rows = "\n".join(line for line in body.splitlines() if line.startswith("|"))
        for name in VARIABLE.findall(rows):
            if f'"{name}"' not in source:
                yield f"{heading} does not know {name}"
        for flag in FLAG.findall(rows):
            spelled, field = flag.removeprefix("--"), flag.removeprefix("--").replace("-", "_")
            if f'"{spelled}"' not in source and not re.search(rf"\b{field}: ", source):
                yield f"{heading} does not know {flag}"


def read_all(pattern, folder="."):
    paths = pathlib.Path(folder).rglob(pattern)
    outside = ("target", "node_modules")
    return [p.read_text(encoding="utf-8") for p in paths if not set(outside) & set(p.parts)]


if __name__ == "__main__":
    sys.exit(main())
