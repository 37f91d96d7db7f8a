"""The classes of inputs, and how many of each are tried."""

from dataclasses import dataclass

from benchmarks.robustness.cases import Generator
from benchmarks.robustness.descriptions import suite_case, sweep_case
from benchmarks.robustness.label_files import archive_case, pickle_case
from benchmarks.robustness.recordings import arrays_case, hdf5_case
from benchmarks.robustness.records import result_case, run_case
from benchmarks.robustness.saved import agent_case, checkpoint_case, flip_case
from benchmarks.robustness.tables import csv_case, frame_case, parquet_case


@dataclass(frozen=True)
class Class:
    """A class of inputs.

    Attributes:
        make: Makes one.
        share: How many of a thousand inputs are of it.
        title: What it is called in tables.
    """

    make: Generator
    share: float
    title: str


CLASSES = {
    "csv": Class(csv_case, 240, "CSV files"),
    "parquet": Class(parquet_case, 70, "Parquet files"),
    "frame": Class(frame_case, 120, "data frames and dictionaries"),
    "arrays": Class(arrays_case, 180, "arrays"),
    "hdf5": Class(hdf5_case, 20, "HDF5 files"),
    "sweep": Class(sweep_case, 40, "sweeps"),
    "suite": Class(suite_case, 70, "suites"),
    "result": Class(result_case, 60, "results"),
    "run": Class(run_case, 40, "folders of runs"),
    "checkpoint": Class(checkpoint_case, 40, "checkpoints"),
    "agent": Class(agent_case, 50, "agents"),
    "archive": Class(archive_case, 40, "labels in archives"),
    "pickle": Class(pickle_case, 30, "labels in pickles"),
    "flip": Class(flip_case, 0, "single bits of checkpoints and agents"),
}
