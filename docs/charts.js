// Draws each chart, again when the theme changes (the sliders stay where they are), and has its lines read aloud.
const themes = matchMedia("(prefers-color-scheme: dark)");

async function draw(chart) {
  const spec = (chart.spec ??= JSON.parse(chart.querySelector("script").text));
  for (const p of spec.params) if (p.bind && chart.view) p.value = chart.view.signal(p.name);
  if (chart.clientWidth < 700) spec.columns = 1;
  const { theme } = document.body.dataset;
  const dark = theme === "dark" || (theme !== "light" && themes.matches);
  const look = { theme: dark ? "dark" : "default", config: { background: "transparent" } };
  const options = { renderer: "svg", actions: false, mode: "vega-lite", ...look };
  chart.view = (await vegaEmbed(chart.querySelector("div"), spec, options)).view;
}

for (const chart of document.querySelectorAll(".chart")) {
  draw(chart);
  chart.addEventListener("input", async () => {
    await chart.view.runAsync();
    const lines = ["lines", "code"].flatMap((name) => chart.view.signal(name));
    chart.querySelector("[aria-live]").textContent = lines.join(" ");
  });
}
const redraw = () => document.querySelectorAll(".chart").forEach(draw);
new MutationObserver(redraw).observe(document.body, { attributeFilter: ["data-theme"] });
themes.addEventListener("change", redraw);
