"""Learning-rate schedules that are functions of the update's number, and a count that is right."""

from nbkit.schedules.counting import updates
from nbkit.schedules.plateau import Plateau, PlateauVerdict
from nbkit.schedules.schedule import Schedule, lr_schedule
from nbkit.schedules.scheduled import Scheduled

__all__ = ["Plateau", "PlateauVerdict", "Schedule", "Scheduled", "lr_schedule", "updates"]
