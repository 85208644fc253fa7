"""Finding pictures of the same thing: global descriptors, an index on disk, verification."""

from flowmatch.retrieval.describe import Describer, TrunkDescriber, VladDescriber, describe_scales
from flowmatch.retrieval.expansion import augment_database, expand_queries
from flowmatch.retrieval.index import Index, read_index, update_index, write_index
from flowmatch.retrieval.metrics import mean_average_precision, read_protocol
from flowmatch.retrieval.pooling import MAC, RMAC, GeM, SPoC
from flowmatch.retrieval.search import Result, Searcher, verify_results
from flowmatch.retrieval.verify import Verifier
from flowmatch.retrieval.vocabulary import kmeans, vlad
from flowmatch.retrieval.whitening import Whitening, learned_whitening, pca_whitening

__all__ = [
    "MAC",
    "RMAC",
    "Describer",
    "GeM",
    "Index",
    "Result",
    "SPoC",
    "Searcher",
    "TrunkDescriber",
    "Verifier",
    "VladDescriber",
    "Whitening",
    "augment_database",
    "describe_scales",
    "expand_queries",
    "kmeans",
    "learned_whitening",
    "mean_average_precision",
    "pca_whitening",
    "read_index",
    "read_protocol",
    "update_index",
    "verify_results",
    "vlad",
    "write_index",
]
