for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
  const scales = { "": 1, k: 1e3, M: 1e6, G: 1e9 };
  const number = words => {
    const found = /^([-+]?[\d,]*\.?\d+(?:e[-+]?\d+)?)([kMG]?)(?: ±.*)?$/.exec(words);
    return found ? Number(found[1].replaceAll(",", "")) * scales[found[2]] : NaN;
  };
  const known = words => words !== "" && words !== "-" && words !== "nan";
  heads.forEach((head, column) => {
    const value = row => row.cells[column].textContent;
    const counts = rows.map(value).filter(known).every(words => !Number.isNaN(number(words)));
    const compare = (a, b) => {
      const one = value(a), other = value(b);
      if (!known(one) || !known(other)) return known(other) - known(one);
      const order = counts ? number(one) - number(other)
        : one.localeCompare(other, undefined, { numeric: true });
      return head.ariaSort === "descending" ? -order : order;
    };
    const turns = counts ? ["descending", "ascending", null] : ["ascending", "descending", null];
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const next = turns[(turns.indexOf(head.ariaSort) + 1) % 3];
      heads.forEach(other => other.ariaSort = null);
      head.ariaSort = next;
      body.append(...(next ? rows.toSorted(compare) : rows));
    });
  });
}
