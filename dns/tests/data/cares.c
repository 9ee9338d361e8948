/* What ares_getaddrinfo(3) makes of a name: its addresses, or the error, a line each. */
#include <ares.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/select.h>

static int failed;

static void done(void *unused, int status, int timeouts, struct ares_addrinfo *found)
{
	struct ares_addrinfo_node *node;

	(void)unused;
	(void)timeouts;
	if (status != ARES_SUCCESS) {
		failed = 1;
		puts(status == ARES_ENOTFOUND ? "ENOTFOUND" : status == ARES_ENODATA ? "ENODATA" : ares_strerror(status));
		return;
	}
	for (node = found->nodes; node; node = node->ai_next) {
		char text[INET6_ADDRSTRLEN];
		const void *address = node->ai_family == AF_INET
			? (const void *)&((struct sockaddr_in *)node->ai_addr)->sin_addr
			: (const void *)&((struct sockaddr_in6 *)node->ai_addr)->sin6_addr;

		puts(inet_ntop(node->ai_family, address, text, sizeof text));
	}
	ares_freeaddrinfo(found);
}

int main(int argc, char **argv)
{
	struct ares_addrinfo_hints hints = { .ai_flags = ARES_AI_NOSORT };
	ares_channel channel;

	if (argc != 3 || ares_library_init(ARES_LIB_INIT_ALL) || ares_init(&channel))
		return 2;
	hints.ai_family = *argv[1] == '4' ? AF_INET : *argv[1] == '6' ? AF_INET6 : AF_UNSPEC;
	ares_getaddrinfo(channel, argv[2], 0, &hints, done, 0);
	for (;;) {
		struct timeval timeout;
		fd_set readable, writable;
		int count;

		FD_ZERO(&readable);
		FD_ZERO(&writable);
		count = ares_fds(channel, &readable, &writable);
		if (!count)
			break;
		select(count, &readable, &writable, 0, ares_timeout(channel, 0, &timeout));
		ares_process(channel, &readable, &writable);
	}
	ares_destroy(channel);
	ares_library_cleanup();
	return failed;
}
