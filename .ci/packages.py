"""Checks that each crate builds from what its package holds, and nothing else.

    cargo package --workspace --no-verify
    python3 .ci/packages.py FOLDER

`FOLDER` holds the `.crate` files. They are unpacked into a workspace of their own that shares this
one's lock file and profiles, so that their dependencies, which are built already, serve again;
cargo's own verification would compile each of them anew.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
# A dependency on a crate beside this one, as cargo writes it into a package.
BESIDE = re.compile(r'(?m)^(\[.*dependencies\.(iris-[a-z]+)\]\n)(version = "=(.+)"\n)')


def main():
    packages = sorted(pathlib.Path(sys.argv[1]).glob("iris-*.crate"))
    assert packages, f"no packages in {sys.argv[1]}"
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        for package in packages:
            subprocess.run(["tar", "--extract", "--file", package, "--directory", place], check=True)
            manifest = place / package.stem / "Cargo.toml"
            text = manifest.read_text(encoding="utf-8")
            manifest.write_text(BESIDE.sub(r'\1path = "../\2-\4"\n\3', text), encoding="utf-8")
            print(f"{package.stat().st_size:>9} {package.name}", flush=True)
        (place / "Cargo.toml").write_text(workspace([package.stem for package in packages]))
        (place / "Cargo.lock").write_bytes((ROOT / "Cargo.lock").read_bytes())
        subprocess.run(["cargo", "check", "--quiet", "--locked", "--workspace"], cwd=place, check=True)


def workspace(members):
    """The manifest over the unpacked crates, with the profiles of the one they come from."""
    manifest = (ROOT / "Cargo.toml").read_text(encoding="utf-8")
    profiles = re.findall(r"(?ms)^\[profile\..*?(?=^\[|\Z)", manifest)
    return f'[workspace]\nresolver = "3"\nmembers = {members}\n\n' + "".join(profiles)


if __name__ == "__main__":
    main()
