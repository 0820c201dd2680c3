"""The table of docs/data.md that follows from the catalogue of data sets."""


def catalogue_table() -> str:
    """One row for each data set of the catalogue, by subject."""
    from targetsft_jax.data.catalogue.maths import MATHS
    from targetsft_jax.data.catalogue.medical import MEDICAL

    rows = [
        "| subject | `dataset` | contents | splits | licence |",
        "|---|---|---|---|---|",
    ]
    for subject, datasets in (("mathematics", MATHS), ("medicine", MEDICAL)):
        for name, dataset in datasets.items():
            cells = (
                subject,
                f"[`{name}`]({dataset.homepage})",
                dataset.about,
                ", ".join(f"`{split}`" for split in dataset.splits),
                dataset.licence,
            )
            rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)
