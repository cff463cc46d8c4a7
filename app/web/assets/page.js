/* The page's script: figures with plotly, sortable tables, the address bar, and light or dark mode. */
(() => {
  const DARK = window.matchMedia("(prefers-color-scheme: dark)");
  let plotly = null;
  let opened = false; // whether the server has answered with the page's first selection

  /* plotly is served by this program and is loaded for the first figure. */
  function loadPlotly() {
    plotly ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = "abq/plotly.min.js";
      script.onload = () => {
        /* With a <base>, plotly writes absolute references into its SVG; they break when the address changes. */
        document.querySelector("base")?.remove();
        resolve(window.Plotly);
      };
      script.onerror = () => reject(new Error("plotly could not be loaded"));
      document.head.append(script);
    });
    return plotly;
  }

  function configuration(name) {
    const save = (format) => (plot) =>
      window.Plotly.downloadImage(plot, { format, filename: name, width: plot.offsetWidth, height: plot.offsetHeight, scale: format === "png" ? 2 : 1 });
    const camera = window.Plotly.Icons.camera;
    return {
      responsive: true,
      displaylogo: false,
      displayModeBar: "hover",
      modeBarButtons: [
        [
          { name: "png", title: "Save as PNG", icon: camera, click: save("png") },
          { name: "svg", title: "Save as SVG", icon: window.Plotly.Icons.disk, click: save("svg") },
        ],
        ["zoom2d", "pan2d", "resetScale2d"],
      ],
    };
  }

  function picture(element, props, watch, select) {
    const plot = element.querySelector(".abq-plot");
    let shown = null;
    async function draw() {
      element.querySelector("figure").hidden = !props.value;
      if (props.value === shown) return;
      shown = props.value;
      if (!shown) return;
      const frame = JSON.parse(shown);
      element.querySelector(".abq-caption").innerHTML = frame.caption;
      plot.setAttribute("aria-label", element.querySelector(".abq-caption").textContent);
      const link = element.querySelector(".abq-csv");
      link.hidden = !frame.csv;
      if (frame.csv) link.href = frame.csv;
      link.download = `${frame.name}.csv`; // an address names its file itself
      const library = await loadPlotly();
      if (shown !== props.value) return;
      const layout = frame.figure.layout;
      layout.height += Math.round(frame.grows * Math.max(0, plot.offsetWidth - 900));
      plot.style.minHeight = `${layout.height}px`;
      const first = !plot.data;
      await library.react(plot, frame.figure.data, layout, configuration(frame.name));
      if (first) plot.on("plotly_click", ({ points }) => {
        const key = points[0]?.data.meta?.select;
        if (key !== undefined) select(key);
      });
      element.dataset.drawn = String(Number(element.dataset.drawn || 0) + 1);
    }
    watch("value", draw);
    new ResizeObserver(() => {
      if (plot.offsetWidth && plot.data) window.Plotly.Plots.resize(plot);
    }).observe(plot);
    draw();
  }

  function table(element, watch, select) {
    let sorted = null;
    let fitted = 0;
    const chosen = new Map(); // title of a column -> whether the visitor wants to see it
    const headings = () => [...element.querySelectorAll("th")];
    const isShown = (heading) => !heading.hidden;
    function show(column, visible) {
      element.querySelectorAll("tr").forEach((row) => { if (row.children[column]) row.children[column].hidden = !visible; });
    }
    /* Hide optional columns until the table fits, except those that the visitor chose. */
    function fit() {
      const scroll = element.querySelector(".abq-scroll");
      fitted = element.offsetWidth;
      if (!scroll?.offsetParent) return;
      headings().forEach((heading, column) => show(column, chosen.get(heading.textContent) ?? true));
      const optional = headings().map((heading, column) => [Number(heading.dataset.optional ?? 0), column, heading.textContent]);
      for (const [, column] of optional.filter(([order, , title]) => order && !chosen.has(title)).sort(([a], [b]) => b - a)) {
        if (scroll.scrollWidth <= scroll.clientWidth) break;
        show(column, false);
      }
      listColumns();
    }
    function listColumns() {
      const list = element.querySelector(".abq-columns");
      if (!list) return;
      const hidden = headings().filter((heading) => !isShown(heading)).length;
      list.querySelector("summary").textContent = hidden ? `Columns (${hidden} hidden)` : "Columns";
      const boxes = headings().filter((heading) => heading.dataset.optional).map((heading) => {
        const label = document.createElement("label");
        const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: isShown(heading) });
        box.addEventListener("change", () => {
          chosen.set(heading.textContent, box.checked);
          fit();
          [...list.querySelectorAll("input")].find((one) => one.parentElement.textContent === label.textContent)?.focus();
        });
        label.append(box, ` ${heading.textContent.trim()}`);
        return label;
      });
      list.querySelector("div").replaceChildren(...boxes);
    }
    function compare(column, direction) {
      return (one, other) => {
        const [a, b] = [one, other].map((row) => row.children[column]?.dataset.order ?? "");
        const [x, y] = [Number(a), Number(b)];
        const order = a !== "" && b !== "" && !isNaN(x) && !isNaN(y) ? x - y : a === "" || b === "" ? (a === "") - (b === "") : a.localeCompare(b);
        return direction * order;
      };
    }
    function sort() {
      const body = element.querySelector("tbody");
      if (!sorted || !body) return;
      [...body.rows].sort(compare(sorted.column, sorted.direction)).forEach((row) => body.append(row));
      element.querySelectorAll("th").forEach((heading, index) => {
        if (index === sorted.column) heading.setAttribute("aria-sort", sorted.direction > 0 ? "ascending" : "descending");
        else heading.removeAttribute("aria-sort");
      });
    }
    element.addEventListener("click", (event) => {
      const heading = event.target.closest("th");
      if (heading) {
        const column = [...heading.parentElement.children].indexOf(heading);
        sorted = { column, direction: sorted?.column === column ? -sorted.direction : 1 };
        return sort();
      }
      const row = event.target.closest("tr[data-key]");
      if (row?.tabIndex === 0) select(row.dataset.key);
    });
    element.addEventListener("keydown", (event) => {
      const row = event.target.closest("tr[data-key]");
      if (row && event.target === row && event.key === "Enter") select(row.dataset.key);
    });
    const arrange = () => { sort(); fit(); };
    watch("value", arrange);
    new ResizeObserver(() => { if (element.offsetWidth !== fitted) fit(); }).observe(element);
    arrange();
  }

  /* Add a pasted text or a file. Calls chosen(path) with the path of the stored text. */
  function ownText(element, chosen) {
    const [area, button, file, status] = ["textarea", "button", "input", "[role=status]"].map((one) => element.querySelector(one));
    async function add(name, content) {
      status.textContent = "Adding…";
      try {
        const response = await fetch(`abq/texts/${encodeURIComponent(name)}`, { method: "POST", body: content });
        const answer = await response.json().catch(() => ({ error: `The text was not added (HTTP ${response.status}).` }));
        status.textContent = answer.error ?? `Added and chosen: ${name}`;
        if (answer.text) chosen(answer.text);
      } catch (error) {
        status.textContent = `The text was not added: ${error.message}`;
      }
    }
    const plain = (name) => name.normalize("NFKD").replace(/[^\w.-]+/g, "-").slice(-60);
    button.addEventListener("click", () => add("pasted.txt", area.value));
    file.addEventListener("change", () => file.files.length && add(plain(file.files[0].name), file.files[0]));
  }

  /* The address bar holds the selection: ?model=&precision=&run=&tab= */
  function fromAddress() {
    const query = new URLSearchParams(window.location.search);
    const selection = { dark: document.body.classList.contains("dark") || DARK.matches };
    for (const name of ["model", "precision", "run", "tab"]) if (query.get(name)) selection[name] = query.get(name);
    return JSON.stringify(selection);
  }

  const press = (id) => document.querySelector(`#${id} button, button#${id}`)?.click();

  /* Have the functions of one tab follow: those of all tabs would take the page a tenth of a second each. */
  const turn = (tab) => document.querySelectorAll(`.abq-turn-${tab}`).forEach((button) => button.click());

  function toAddress(text) {
    if (!text) return;
    const selection = JSON.parse(text);
    const query = new URLSearchParams(window.location.search);
    for (const name of ["model", "precision", "run", "tab"]) {
      if (selection[name]) query.set(name, selection[name]);
      else query.delete(name);
    }
    window.history.replaceState(null, "", `?${query}`);
    opened = true;
    markStep(selection.tab);
    turn(selection.tab);
  }

  /* A link within the page changes the address and has the page follow it. Another precision has another run. */
  function follow() {
    press("abq-go");
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[data-go]");
    if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    const change = JSON.parse(link.dataset.go);
    const query = new URLSearchParams(window.location.search);
    if (change.precision && change.precision !== query.get("precision")) query.delete("run");
    for (const [name, value] of Object.entries(change)) query.set(name, value);
    if (!opened) return window.location.assign(`?${query}`); // the first selection is still on its way, and would win
    window.history.pushState(null, "", `?${query}`);
    follow();
  });
  window.addEventListener("popstate", follow);

  /* The three steps for newcomers: the current one is marked, and the line stays away once it is closed. */
  const CLOSED = "abq-steps-closed";

  function markStep(tab) {
    document.querySelectorAll(".abq-steps li").forEach((step) => {
      const current = step.dataset.tabs.split(" ").includes(tab);
      if (current) step.setAttribute("aria-current", "step");
      else step.removeAttribute("aria-current");
    });
  }

  function steps(element) {
    const line = element.querySelector(".abq-steps");
    let closed = false;
    try { closed = Boolean(window.localStorage.getItem(CLOSED)); } catch { /* storage is blocked: show the line */ }
    line.hidden = closed;
    markStep(new URLSearchParams(window.location.search).get("tab") ?? "explore");
    line.querySelector("button").addEventListener("click", () => {
      line.hidden = true;
      try { window.localStorage.setItem(CLOSED, "1"); } catch { /* closed on this page only */ }
    });
  }

  /* The selection with a change; unchanged while the page is still loading. */
  const withChange = (text, change) => (text ? JSON.stringify({ ...JSON.parse(text), ...change }) : text);

  /* Show newly finished runs, unless the selection has changed since the server looked at it. */
  function applyOffer(offer, text) {
    const { selection, run, runs, models } = JSON.parse(offer);
    const current = text ? JSON.parse(text) : {};
    if (["model", "precision", "run"].some((name) => selection[name] !== current[name])) return [];
    const update = (values) => ({ __type__: "update", ...values });
    const value = runs.some(([, id]) => id === run) ? run : "";
    return [withChange(text, { run }), update({ choices: models }), update({ choices: runs, value })];
  }

  /* The candidates of a token, in every column: shown for the token under the pointer, or the one with the focus. */
  const box = Object.assign(document.createElement("div"), { className: "abq-candidates", hidden: true });
  box.setAttribute("role", "status");
  const make = (name, className, text) => Object.assign(document.createElement(name), { className, textContent: text });
  const tokensOf = (text) => [...text.querySelectorAll("[data-top]")];
  const textsBeside = (text) => [...text.closest(".abq-streams").querySelectorAll(`.abq-text[data-turn="${text.dataset.turn}"]`)];
  const visible = (text) => text.replace(/ /g, "\u2423").replace(/\n/g, "\u21b5").replace(/\t/g, "\u21e5") || "\u2205";

  function candidatesOf(text, at) {
    const part = make("section", `abq-${text.dataset.lens}`, "");
    part.append(make("h4", "", text.dataset.title));
    const token = tokensOf(text)[at];
    if (!token) {
      part.append(make("p", "", "No token here."));
      return part;
    }
    const other = text.dataset.differs !== undefined && at > Number(text.dataset.differs);
    part.append(make("p", "", `${token.dataset.kl ? `KL ${token.dataset.kl} nats` : "no KL"}${other ? ", after another text" : ""}`));
    const list = make("ol", "", "");
    for (const [candidate, probability, written] of JSON.parse(token.dataset.top)) {
      const line = make("li", written ? "abq-written" : "", "");
      line.style.setProperty("--share", `${100 * probability}%`);
      line.append(make("code", "", visible(candidate)), make("b", "", `${(100 * probability).toFixed(1)} %`));
      list.append(line);
    }
    part.append(list);
    return part;
  }

  function showCandidates(token) {
    const text = token.closest(".abq-text");
    const at = tokensOf(text).indexOf(token);
    const title = make("h3", "", `Token ${at + 1}: `);
    title.append(make("code", "", visible(token.textContent)));
    const columns = make("div", "", "");
    columns.append(...textsBeside(text).map((one) => candidatesOf(one, at)));
    box.replaceChildren(title, columns);
    if (!box.isConnected) document.body.append(box);
    box.hidden = false;
    const place = token.getBoundingClientRect();
    const below = place.bottom + 8 + box.offsetHeight <= window.innerHeight;
    box.style.left = `${Math.max(8, Math.min(place.left, window.innerWidth - box.offsetWidth - 8))}px`;
    box.style.top = `${below ? place.bottom + 8 : Math.max(8, place.top - box.offsetHeight - 8)}px`;
  }

  const tokenAt = (event) => event.target.closest?.(".abq-text [data-top]");
  const hideCandidates = () => { box.hidden = true; };
  document.addEventListener("pointerover", (event) => {
    const token = tokenAt(event);
    if (token) showCandidates(token);
    else if (!document.activeElement?.closest(".abq-text")) hideCandidates();
  });
  document.addEventListener("focusin", (event) => {
    const text = event.target.closest?.(".abq-text");
    const token = tokenAt(event) ?? (text && tokensOf(text)[0]);
    if (token) showCandidates(token);
    else hideCandidates();
  });
  document.addEventListener("focusout", hideCandidates);
  document.addEventListener("scroll", () => {
    const token = document.activeElement?.closest("[data-top]");
    if (token && !box.hidden) showCandidates(token); // an arrow key scrolled to it
    else hideCandidates();
  }, true);
  document.addEventListener("keydown", (event) => {
    const text = event.target.closest?.(".abq-text");
    if (!text) return;
    if (event.key === "Escape") return hideCandidates();
    const tokens = tokensOf(text);
    const at = tokens.indexOf(tokenAt(event));
    const texts = textsBeside(text);
    const column = texts.indexOf(text);
    const next = {
      ArrowRight: () => tokens[Math.min(at + 1, tokens.length - 1)],
      ArrowLeft: () => tokens[Math.max(at - 1, 0)],
      ArrowDown: () => tokensOf(texts[Math.min(column + 1, texts.length - 1)])[Math.max(at, 0)],
      ArrowUp: () => tokensOf(texts[Math.max(column - 1, 0)])[Math.max(at, 0)],
      Home: () => tokens[0],
      End: () => tokens.at(-1),
    }[event.key]?.();
    if (!next) return;
    event.preventDefault();
    next.tabIndex = -1;
    next.focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest" });
    showCandidates(next);
  });

  DARK.addEventListener("change", () => press("abq-dark-changed"));

  window.abq = { picture, table, ownText, steps, fromAddress, toAddress, turn, withChange, applyOffer, isDark: () => DARK.matches };
})();
