// Fills in the claim code that a QR label carries in the address's fragment, and takes it out of the address.
const code = decodeURIComponent(location.hash.slice(1));
const field = document.getElementById("code");
if (field && /^[0-9A-Za-z-]{4,64}$/.test(code)) {
  field.value = code;
  history.replaceState(null, "", location.pathname);
  document.getElementById("user").focus();
}
