"""The page of a report as text, for the tests that read it."""

from nbkit.course.report.data import build
from nbkit.course.report.html import html
from nbkit.course.report.pictures import pictures
from nbkit.course.report.read import entries


def page(records, folder=None):
    """One run as HTML; with links and pictures if it is told the folder of the files."""
    found, damaged = entries(records, folder)
    shown, unread, left_out = pictures([found])
    told = build([found], [*damaged, *unread], folders=[folder], out=folder)
    return html(told, shown, left_out)
