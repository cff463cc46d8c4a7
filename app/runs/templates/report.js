const dark = matchMedia("(prefers-color-scheme: dark)");
function draw() {
  for (const holder of document.querySelectorAll("script[data-for]")) {
    const figure = JSON.parse(holder.textContent)[dark.matches ? "dark" : "light"];
    Plotly.react(holder.dataset.for, figure.data, figure.layout, {responsive: true, displaylogo: false});
  }
}
dark.addEventListener("change", draw);
draw();
