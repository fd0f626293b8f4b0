"""What the command lines of benchmarks of pretrained networks have in common."""

import pathlib

from benchmarks import common
from benchmarks.real_networks import NETWORKS, files
from benchmarks.real_networks.network import CACHE


def make_parser(doc, *, nets=tuple(NETWORKS), seeds=(0,)):
    """A parser that takes networks, seeds, and the folders of data and of networks.

    Args:
        doc: docstring of the script.
        nets: names of the networks that may be asked for.
        seeds: those that are run by default.
    """
    parser = common.make_parser(doc)
    files.add_argument(parser)
    add = parser.add_argument
    add("--nets", nargs="+", choices=nets, required=True, metavar="NET")
    add("--seeds", type=int, nargs="+", default=list(seeds))
    add("--cache", type=pathlib.Path, default=CACHE, help="folder of pretrained networks")
    add("--resume", action="store_true", help="go on with the stored rows of this run")
    return parser


def parse(parser):
    """The arguments, with a name of the run; data is in the folder that they name."""
    args = parser.parse_args()
    files.look_in(args.data)
    args.run = args.run or common.name_run(args.nets)
    return args
