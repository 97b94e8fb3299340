# A shell of the user's speaks his language.
[ -r /run/okubsd/locale ] && read -r LANG </run/okubsd/locale && export LANG
