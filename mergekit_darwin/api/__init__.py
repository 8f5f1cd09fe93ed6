"""What the package does, as Python functions; the commands call these and print.

Importing it loads neither torch nor mergekit: that happens inside a call. Models are
folders, hub names or `model+adapter`, as in a merge configuration. Whatever the caller
can repair raises DarwinError, whose text is one line.
"""

from mergekit_darwin.api.breeding import breed as breed
from mergekit_darwin.api.breeding import check_breeding as check_breeding
from mergekit_darwin.api.breeding import consensus as consensus
from mergekit_darwin.api.breeding import family as family
from mergekit_darwin.api.breeding import refit_child as refit_child
from mergekit_darwin.api.breeding import start_breeding as start_breeding
from mergekit_darwin.api.merging import check_health as check_health
from mergekit_darwin.api.merging import merge_yaml as merge_yaml
from mergekit_darwin.api.merging import preview_merges as preview_merges
from mergekit_darwin.api.merging import ratio_table as ratio_table
from mergekit_darwin.api.merging import read_genome as read_genome
from mergekit_darwin.api.merging import read_report as read_report
from mergekit_darwin.api.merging import register as register
from mergekit_darwin.api.merging import scan_parents as scan_parents
