"""Image retrieval: global descriptors, an index on disk, search, geometric verification."""

from flowmatch.retrieval.backbone_describer import BackboneDescriber, describe_scales
from flowmatch.retrieval.describe import Describer, describer_of, load_describer
from flowmatch.retrieval.duplicates import Duplicate, find_duplicates
from flowmatch.retrieval.evaluation.metrics import mean_average_precision, read_protocol
from flowmatch.retrieval.expansion import augment_database, expand_queries
from flowmatch.retrieval.index import Index, IndexReport, read_index, write_index
from flowmatch.retrieval.network import MODELS, RetrievalNet
from flowmatch.retrieval.pooling import MAC, RMAC, GeM, SPoC
from flowmatch.retrieval.results import Result, results_sheet, write_results
from flowmatch.retrieval.searcher import Searcher, search, verify_geometry
from flowmatch.retrieval.store import available, load, save_weights
from flowmatch.retrieval.training.folder import train_from_folder
from flowmatch.retrieval.update import IndexUpdate, build_index, update_index
from flowmatch.retrieval.verify import Verifier
from flowmatch.retrieval.vlad_describer import VladDescriber, VladOptions
from flowmatch.retrieval.vocabulary import kmeans, vlad
from flowmatch.retrieval.whitening import Whitening, learned_whitening, pca_whitening

__all__ = [
    "MAC",
    "MODELS",
    "RMAC",
    "BackboneDescriber",
    "Describer",
    "Duplicate",
    "GeM",
    "Index",
    "IndexReport",
    "IndexUpdate",
    "Result",
    "RetrievalNet",
    "SPoC",
    "Searcher",
    "Verifier",
    "VladDescriber",
    "VladOptions",
    "Whitening",
    "augment_database",
    "available",
    "build_index",
    "describe_scales",
    "describer_of",
    "expand_queries",
    "find_duplicates",
    "kmeans",
    "learned_whitening",
    "load",
    "load_describer",
    "mean_average_precision",
    "pca_whitening",
    "read_index",
    "read_protocol",
    "results_sheet",
    "save_weights",
    "search",
    "train_from_folder",
    "update_index",
    "verify_geometry",
    "vlad",
    "write_index",
    "write_results",
]
