"""The page of a report as text, for the tests that read it."""

from nbkit.course.report.assembly import assemble_report
from nbkit.course.report.html import render_page
from nbkit.course.report.pictures import collect_pictures
from nbkit.course.report.read import check_records


def page(records, folder=None):
    """Render one run as HTML; with links and pictures if the folder of its files is given."""
    found, damaged = check_records(records, folder)
    pictures, unread, left_out = collect_pictures([found])
    report = assemble_report([found], [*damaged, *unread], folders=[folder], out=folder)
    return render_page(report, pictures, left_out)
