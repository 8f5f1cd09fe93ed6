# %% [markdown]
# # From two parents to a checked child
# The tiny family that comes with the repository, offline, in about a minute. Run it
# from the repository's root: as a script, or cell by cell in an editor with `# %%`.

# %%
from pathlib import Path

import mergekit_darwin as md

family = Path("examples/tiny_family")
father, mother, base = (str(family / name) for name in ("father", "mother", "base"))
out = Path("out/notebook")


def show(picture: Path) -> None:
    """Show a picture in a notebook; say where it lies anywhere else."""
    try:
        from IPython.display import Image, display

        display(Image(filename=str(picture)))
    except ImportError:
        print(f"picture: {picture}")


# %% [markdown]
# ## Scan: what is every tensor and layer for?

# %%
report = md.scan_parents(father, mother, base, out=out / "mds")
for probe, distances in report.father.probes.items():
    layer = max(range(len(distances)), key=distances.__getitem__)
    print(f"{probe:10} needs layer {layer} most ({distances[layer]:.3f})")
show(out / "mds" / "mds.png")
show(out / "mds" / "gains.png")

# %% [markdown]
# ## Ratios: what would the merge do?
# `lambda` 2 at ratio 0.5 is the sum of both task vectors: the place to start from.

# %%
recipe = out / "darwin.yml"
recipe.write_text(
    f"""
merge_method: darwin_v6
base_model: {base}
models:
  - model: {father}
  - model: {mother}
parameters:
  mds: {out / "mds"}
  mri_trust: 0.2
  lambda: 2.0
dtype: float32
"""
)
rows = md.ratio_table(recipe)
print(f"{len(rows)} tensors, {sum(row.route == 'blend' for row in rows)} blended")

# %% [markdown]
# ## Merge, and look at the child's health

# %%
child = md.merge_yaml(recipe, out / "child")
health = md.check_health(str(child), father, mother, base, out=out / "health")
print(health.verdict, health.counts)
show(out / "health" / "health.png")
