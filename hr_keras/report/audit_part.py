"""What a page shows of an audit."""

import dataclasses

import pandas as pd

from hr_keras.audit import AuditResult, report
from hr_keras.experiments.results.tables import join_sections
from hr_keras.report.parts import Document, Part, make_figure, to_csv


def make_audit_part(result: AuditResult) -> Part:
    """Returns accuracies, security curve, adversarial examples, findings and protocol."""
    figures = {
        "curve.png": make_figure(
            lambda: report.draw_curve(result),
            "Accuracy against ε under each attack and in the worst case. The numbers are in the "
            "table above.",
        )
    }
    if result.pictures:
        changes = ", ".join(f"{one.predicted} → {one.adversarial}" for one in result.pictures)
        figures["pictures.png"] = make_figure(
            lambda: report.draw_pictures(result),
            f"Clean images, adversarial images and perturbations. Decisions: {changes}.",
        )
    rows = pd.DataFrame([dataclasses.asdict(row) for row in result.rows]).drop(columns="correct")
    findings = pd.DataFrame([dataclasses.asdict(one) for one in result.findings])
    details = join_sections("# Details of the audit", *report.format_details(result))
    return Part(
        title=f"Audit of {report.find_name(result)}",
        verdict=report.summarize(result),
        summary=Document(
            join_sections(*report.format_accuracies(result)),
            data={"accuracies.csv": to_csv(rows)},
        ),
        documents=(
            Document(
                details,
                figures,
                {"audit.json": result.to_json(), "findings.csv": to_csv(findings)},
            ),
        ),
    )
