// Runs before anything is painted, so that nobody sees the wrong theme or language.
(() => {
  const kept = (name) => {
    try {
      return localStorage.getItem(name);
    } catch {
      return null;
    }
  };
  const root = document.documentElement;
  const theme = kept("iris-theme");
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  const language = kept("iris-language") ?? navigator.language;
  root.lang = language.toLowerCase().startsWith("es") ? "es" : "en";
})();
