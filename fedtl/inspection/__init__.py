"""Reports and displays of what a federation gained and exchanged."""

from fedtl.inspection._displays import LatentSpaceDisplay, PartyContributionDisplay
from fedtl.inspection._report import FederationReport
from fedtl.inspection._tuning_report import TuningReport

__all__ = ["FederationReport", "LatentSpaceDisplay", "PartyContributionDisplay", "TuningReport"]
