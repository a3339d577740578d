"""Reports and displays of what a federation gained and exchanged."""

from fedtl.inspection._contributions import Contributions, party_contributions
from fedtl.inspection._displays import LatentSpaceDisplay, PartyContributionDisplay
from fedtl.inspection._leakage import LeakageReport, leakage_report
from fedtl.inspection._leakage_display import LeakageDisplay
from fedtl.inspection._party_report import PartyReport
from fedtl.inspection._report import FederationReport
from fedtl.inspection._tuning_report import TuningReport

__all__ = [
    "Contributions",
    "FederationReport",
    "LatentSpaceDisplay",
    "LeakageDisplay",
    "LeakageReport",
    "PartyContributionDisplay",
    "PartyReport",
    "TuningReport",
    "leakage_report",
    "party_contributions",
]
