"""A real Apache: plain HTTP/1.1, and TLS with HTTP/1.1 and HTTP/2; text goes in gzip to who takes it.

Folders are listed; below /table as a table, below /plain as a bare list.
"""

from __future__ import annotations

import shutil

from tests.servers import HOST
from tests.servers.process import Server

_MODULES = (
    "mpm_event",
    "authz_core",
    "mime",
    "filter",
    "deflate",
    "dir",
    "autoindex",
    "alias",
    "ssl",
    "http2",
)

_CONFIG = """\
ServerRoot "{prefix}"
ServerName localhost
DefaultRuntimeDir "{prefix}"
PidFile apache.pid
ErrorLog "{prefix}/apache.log"
LogLevel warn
{modules}
StartServers 1
ServerLimit 2
ThreadsPerChild 64
MaxRequestWorkers 128
MaxKeepAliveRequests 0
SSLSessionCache none
TypesConfig /dev/null
AddType text/plain .txt
AddType text/html .html
AddOutputFilterByType DEFLATE text/plain text/html
DocumentRoot "{root}"
<Directory "{root}">
    Require all granted
    Options Indexes FollowSymLinks
    IndexOptions FancyIndexing NameWidth=20
</Directory>
AliasMatch "^/(table|plain)/(.*)" "{root}/$2"
<Location "/table">
    IndexOptions FancyIndexing HTMLTable SuppressDescription
</Location>
<Location "/plain">
    IndexOptions -FancyIndexing
</Location>
Listen {host}:{http}
Listen {host}:{tls} https
<VirtualHost {host}:{tls}>
    SSLEngine on
    SSLCertificateFile server.pem
    SSLCertificateKeyFile server.key
    Protocols h2 http/1.1
</VirtualHost>
"""


class Apache(Server):
    """An Apache; see `Server`. It refuses to serve as root, so that root's document root must be readable to
    all.
    """

    executable = "apache2"
    install = "apt-get install apache2-bin (or run .ci/install-packages)"
    listeners = ("http", "tls")
    drops_root = True

    def _write_config(self) -> None:
        modules = "\n".join(
            f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in _MODULES
        )
        config = _CONFIG.format(
            prefix=self.prefix,
            modules=modules,
            root=self.root,
            host=HOST,
            **self.ports,
        )
        (self.prefix / "apache.conf").write_text(config)
        if self.authority.chain.parent != self.prefix:  # they may lie where only root can read
            for path in (self.authority.chain, self.authority.key):
                shutil.copy(path, self.prefix)

    def _command(self) -> list[str]:
        return [self.program, "-f", str(self.prefix / "apache.conf"), "-DFOREGROUND"]
