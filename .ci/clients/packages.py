"""Installs the pinned third-party clients into a folder outside of the clone.

A folder's name holds a hash of what it was made from, so that a cache never serves another pin.
"""

import glob
import hashlib
import os
import shutil
import subprocess
import sys

LLAMA = "llama-cpp-python==0.3.36"
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


def llama_server(cache):
    """Returns llama.cpp's own server, built from the sources that PyPI's llama-cpp-python brings."""
    requirements = os.path.join(HERE, "llama", "requirements.txt")
    folder = _folder(cache, "llama", requirements, sys.version + LLAMA)
    program = os.path.join(folder, "llama-server")
    if not _is_done(folder):
        shutil.rmtree(folder, ignore_errors=True)
        _build_llama_server(folder, requirements, program)
        _set_done(folder)
    return program


def _build_llama_server(folder, requirements, program):
    tools, build = os.path.join(folder, "tools"), os.path.join(folder, "build")
    _run([sys.executable, "-m", "venv", tools])
    pip = [os.path.join(tools, "bin", "python"), "-m", "pip"]
    environment = {**os.environ, "PATH": os.path.join(tools, "bin") + os.pathsep + os.environ["PATH"]}
    _run([*pip, "install", "--quiet", "--requirement", requirements])
    flags = ["--quiet", "--no-deps", "--no-build-isolation", "--no-binary", ":all:", "--dest", folder]
    _run([*pip, "download", *flags, LLAMA], environment=environment)
    [archive] = glob.glob(os.path.join(folder, "*.tar.gz"))
    _run(["tar", "--extract", "--file", archive, "--directory", folder])
    source = os.path.join(archive.removesuffix(".tar.gz"), "vendor", "llama.cpp")
    off = ["BUILD_SHARED_LIBS", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_UI",
           "LLAMA_OPENSSL", "LLAMA_CURL", "GGML_OPENMP"]
    # Its answers are what matters here; half of the optimisation takes half of the time.
    flags = ["-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_C_FLAGS_RELEASE=-O1", "-DCMAKE_CXX_FLAGS_RELEASE=-O1"]
    flags += [f"-D{name}=OFF" for name in off]
    _run(["cmake", "-S", source, "-B", build, "-G", "Ninja", *flags], environment=environment)
    _run(["ninja", "-C", build, "--quiet", "llama-server"], environment=environment)
    shutil.move(os.path.join(build, "bin", "llama-server"), program)
    for left in (build, tools, archive, archive.removesuffix(".tar.gz")):
        os.remove(left) if os.path.isfile(left) else shutil.rmtree(left)


def _folder(cache, kind, pins, version):
    with open(pins, "rb") as file:
        digest = hashlib.sha256(file.read() + version.encode()).hexdigest()[:16]
    return os.path.join(cache, f"clients-{kind}-{digest}")


def _is_done(folder):
    return os.path.exists(os.path.join(folder, ".done"))


def _set_done(folder):
    open(os.path.join(folder, ".done"), "w", encoding="utf-8").close()


def _run(line, cwd=None, environment=None):
    subprocess.run(
        line, cwd=cwd, check=True, stdin=subprocess.DEVNULL, timeout=1200, env=environment,
    )
