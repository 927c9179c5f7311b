// Sets the theme that the reader chose before the page is drawn; without a choice, the system's applies.
const theme = localStorage.getItem("levelq-theme");
if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
