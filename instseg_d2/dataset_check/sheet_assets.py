"""Style and script of the page that :mod:`.sheet` writes."""

STYLE = """
.filters {
  display: flex; flex-wrap: wrap; gap: 0.6rem 1rem; align-items: center; max-width: none;
  position: sticky; top: 0; padding: 0.6rem 0; background: var(--paper); z-index: 1;
}
.filters select, .filters input { font: inherit; max-width: 12rem; }
.charts img { background: #ffffff; }
.sample { min-width: 0; scroll-margin-top: 6rem; overflow-wrap: anywhere; }
.sample:target { outline: 3px solid var(--accent); outline-offset: 4px; border-radius: 0.4rem; }
.sample[hidden] { display: none; }
.sample ul { margin: 0.3rem 0; padding-left: 1.2rem; }
.sample li.error b { color: #c8322b; }
.sample li.warning b { color: var(--warn-line); }
.wide td:last-child:not(.number) { min-width: 15rem; max-width: 46rem; overflow-wrap: anywhere; }
.wide tbody th, .wide tbody td { vertical-align: top; }
.wide tbody th { min-width: 9rem; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  .wide tbody th { min-width: 6.5rem; }
  .wide td:last-child:not(.number) { min-width: 11rem; }
}
"""

SCRIPT = """
"use strict";
// Images are shown if they have the chosen class, the chosen problem, and the text in their name.
const samples = [...document.querySelectorAll(".sample")];
const controls = ["by-class", "by-problem", "by-name"].map((id) => document.getElementById(id));
if (samples.length) {
  const [byClass, byProblem, byName] = controls;
  const filter = () => {
    const text = byName.value.trim().toLowerCase();
    let shown = 0;
    for (const sample of samples) {
      const problems = sample.dataset.problems.split(" ").filter(Boolean);
      const isShown =
        (!byClass.value || sample.dataset.classes.split(" ").includes(byClass.value)) &&
        (!byProblem.value || problems.includes(byProblem.value) ||
          (byProblem.value === "*" && problems.length > 0)) &&
        sample.dataset.name.toLowerCase().includes(text);
      sample.hidden = !isShown;
      shown += isShown;
    }
    document.getElementById("number-shown").textContent = `${shown} of ${samples.length} images`;
  };
  for (const control of controls) control.addEventListener("input", filter);
  // A link to an image that a filter hides shows all again.
  window.addEventListener("hashchange", () => {
    const target = document.getElementById(location.hash.slice(1));
    if (target && target.hidden) {
      for (const control of controls) control.value = "";
      filter();
      target.scrollIntoView();
    }
  });
  filter();
}
// A link to a code opens its list.
window.addEventListener("hashchange", () => {
  const target = document.getElementById(location.hash.slice(1));
  const list = target && target.querySelector("details");
  if (list) list.open = true;
});
"""
