"""CMA-ES over unit coordinates, and a surrogate that learns as it goes.

Knows no models and no files.
"""

from mergekit_darwin.search.belief import (
    Belief as Belief,
)
from mergekit_darwin.search.belief import (
    Predictor as Predictor,
)
from mergekit_darwin.search.belief import (
    Surrogate as Surrogate,
)
from mergekit_darwin.search.belief import (
    krige as krige,
)
from mergekit_darwin.search.belief import (
    rank_correlation as rank_correlation,
)
from mergekit_darwin.search.breed import (
    Ask as Ask,
)
from mergekit_darwin.search.breed import (
    Memory as Memory,
)
from mergekit_darwin.search.breed import (
    breed as breed,
)
from mergekit_darwin.search.cma import (
    SearchOptions as SearchOptions,
)
from mergekit_darwin.search.cma import (
    Strategy as Strategy,
)
from mergekit_darwin.search.cma import (
    make_cma as make_cma,
)
from mergekit_darwin.search.cma import (
    maximise as maximise,
)
from mergekit_darwin.search.space import (
    Array as Array,
)
from mergekit_darwin.search.space import (
    Space as Space,
)
from mergekit_darwin.search.space import (
    make_space as make_space,
)
