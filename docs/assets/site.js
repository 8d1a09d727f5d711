// Formulas: the vendored KaTeX renders what Markdown has marked, and nothing is fetched.
document.querySelectorAll(".arithmatex").forEach((element) => {
  const [, open, formula] = element.textContent.match(/^\s*\\([[(])([\s\S]*?)\\[\])]\s*$/) ?? [];
  if (formula) katex.render(formula, element, { displayMode: open === "[", throwOnError: false });
});
