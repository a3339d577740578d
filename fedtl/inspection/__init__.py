"""Reports and displays of what a federation gained and exchanged."""

from fedtl.inspection._displays import LatentSpaceDisplay, PartyContributionDisplay
from fedtl.inspection._party_report import PartyReport
from fedtl.inspection._report import FederationReport

__all__ = ["FederationReport", "LatentSpaceDisplay", "PartyContributionDisplay", "PartyReport"]
