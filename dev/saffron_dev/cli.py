"""The command `saffron-dev`."""

import argparse
import os
import subprocess
import sys

from saffron_dev import images
from saffron_dev.binaries import binaries
from saffron_dev.cluster import imagestore, lifecycle, requirements
from saffron_dev.cluster.settings import NODE_NAME, Folders, folders
from saffron_dev.demo.settings import read_settings
from saffron_dev.demo.tour import tour
from saffron_dev.errors import DevError
from saffron_dev.progress import say


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except DevError as error:
        say(f"saffron-dev: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="saffron-dev",
        description="A real Kubernetes on this machine, built from package registries and gone without a trace.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start the cluster (root); builds it first where it never ran")
    up.add_argument("--foreground", action="store_true", help="stay, and end the cluster with Ctrl-C")
    up.add_argument("--no-install", action="store_true", help="install no missing Debian package, only name it")
    commands.add_parser("status", help="show whether it runs, its node, its kubeconfig and its images")
    load = commands.add_parser("load", help="load an image, since there is no registry to pull from (root)")
    load.add_argument(
        "image", help="a docker-archive or OCI tar, - for one on standard input, or an image of buildah's"
    )
    build = commands.add_parser("build", help="build images from the Dockerfile (root)")
    build.add_argument("target", nargs="+", choices=images.TARGETS, help="which of them")
    build.add_argument("--load", action="store_true", help="also load them into the cluster")
    demo = commands.add_parser(
        "demo",
        help="from kubectl apply to a promoted checkpoint (root, or KUBECONFIG)",
        epilog="SAFFRON_ENGINE=transformers serves with `transformers serve` even where vLLM would do.",
    )
    demo.add_argument("--keep", action="store_true", help="leave the cluster and all that is in it at the end")
    down = commands.add_parser("down", help="end it (root)")
    down.add_argument("--purge", action="store_true", help="also remove its objects, images, volumes and keys")
    return parser


def _run(options: argparse.Namespace) -> int:
    where = folders()
    if options.command == "up":
        lifecycle.up(where, install=not options.no_install, foreground=options.foreground)
    elif options.command == "status":
        return _status(where)
    elif options.command == "load":
        requirements.require_root("saffron-dev load")
        imagestore.load(options.image, lifecycle.importer(where), install=True)
    elif options.command == "build":
        for target in options.target:
            images.build(target)
            if options.load:
                images.load(target, where)
    elif options.command == "demo":
        tour(read_settings(os.environ), keep=options.keep)
    elif options.command == "down":
        say("The cluster is down." if lifecycle.down(where) else "No cluster was up.")
        if options.purge:
            lifecycle.purge(where)
    return 0


def _status(where: Folders) -> int:
    process = lifecycle.running_process(where)
    if process is None:
        print(f"No cluster runs here. `saffron-dev up` starts one; it keeps its state in {where.root}.")
        return 1
    print(f"up          process {process}; its end is the cluster's end")
    print(f"kubeconfig  {where.kubeconfig}")
    print(f"logs        {where.log}")
    kubectl = [str(binaries("kubectl")["kubectl"]), f"--kubeconfig={where.kubeconfig}", "--request-timeout=5s"]
    columns = (
        "custom-columns=NODE:.metadata.name,VERSION:.status.nodeInfo.kubeletVersion,"
        "READY:.status.conditions[?(@.type=='Ready')].status,GPU:.status.allocatable.nvidia\\.com/gpu,"
        "RUNTIME:.status.nodeInfo.containerRuntimeVersion"
    )
    node = subprocess.run([*kubectl, "get", "node", NODE_NAME, "--output", columns], check=False)
    if os.geteuid() == 0:  # the image store lies in the cluster's own mounts
        for image in lifecycle.stored_images(where):
            print(f"image       {image}")
    return node.returncode


if __name__ == "__main__":
    sys.exit(main())
