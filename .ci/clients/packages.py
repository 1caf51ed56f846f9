"""Installs the pinned third-party clients into a folder outside of the clone.

A folder's name holds a hash of what it was made from, so that a cache never serves another pin.
"""

import hashlib
import os
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def python(cache):
    """Returns the interpreter of a virtual environment that has the Python client."""
    requirements = os.path.join(HERE, "python", "requirements.txt")
    folder = _folder(cache, "python", requirements, sys.version)
    interpreter = os.path.join(folder, "bin", "python")
    if not _is_done(folder):
        _run([sys.executable, "-m", "venv", "--clear", folder])
        _run([interpreter, "-m", "pip", "install", "--quiet", "--requirement", requirements])
        _set_done(folder)
    return interpreter


def node(cache):
    """Returns a folder whose `node_modules` has the Node client."""
    package = os.path.join(HERE, "node", "package.json")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    folder = _folder(cache, "node", package, version.stdout)
    if not _is_done(folder):
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        shutil.copy(package, folder)
        flags = ["--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
        _run(["npm", "install", *flags, "--loglevel=error"], cwd=folder)
        _set_done(folder)
    return folder


def browser(cache):
    """Returns the folder whose `node_modules` has what drives and examines a browser from Node."""
    source = os.path.join(HERE, "browser")
    lock = os.path.join(source, "package-lock.json")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    folder = _folder(cache, "browser", lock, version.stdout)
    if not _is_done(folder):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        flags = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        _run(["npm", "ci", *flags], cwd=folder)
        _set_done(folder)
    return folder


def _folder(cache, kind, pins, version):
    with open(pins, "rb") as file:
        digest = hashlib.sha256(file.read() + version.encode()).hexdigest()[:16]
    return os.path.join(cache, f"clients-{kind}-{digest}")


def _is_done(folder):
    return os.path.exists(os.path.join(folder, ".done"))


def _set_done(folder):
    open(os.path.join(folder, ".done"), "w", encoding="utf-8").close()


def _run(line, cwd=None):
    subprocess.run(line, cwd=cwd, check=True, stdin=subprocess.DEVNULL, timeout=600)
