"""The experiments behind the lecture's claims, by name."""

from headwise.lecture.experiments import ablation, distance, efficiency, features, translation, two_fetch
from headwise.lecture.experiments.experiment import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT for module in (two_fetch, distance, translation, features, ablation, efficiency)
}
