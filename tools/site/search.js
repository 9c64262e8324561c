// The search finds headings that have every word of the query, those that begin with it first.
const root = document.body.dataset.root;
const query = document.getElementById("query");
const results = document.getElementById("results");

function find(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) return [];
  const hits = index.filter((h) => words.every((w) => (h.title + " " + h.page).toLowerCase().includes(w)));
  const begins = (h) => (h.title.toLowerCase().includes(words[0]) ? 0 : 1);
  return hits.sort((a, b) => begins(a) - begins(b)).slice(0, 20);
}

function show() {
  const hits = find(query.value);
  results.hidden = query.value.trim() === "";
  results.replaceChildren(...hits.map((h) => {
    const a = document.createElement("a");
    a.href = root + h.url;
    a.textContent = h.title;
    const where = document.createElement("small");
    where.textContent = h.page;
    a.append(where);
    const item = document.createElement("li");
    item.append(a);
    return item;
  }));
  if (hits.length === 0) results.textContent = "No heading has these words.";
}

query.addEventListener("input", show);
query.addEventListener("keydown", (e) => {
  const first = results.querySelector("a");
  if (e.key === "Enter" && first) location.href = first.href;
  if (e.key === "Escape") { query.value = ""; show(); }
});
results.addEventListener("click", () => { results.hidden = true; });

// On a phone the list of pages is closed at first.
if (matchMedia("(max-width: 50rem)").matches) document.getElementById("menu").open = false;
