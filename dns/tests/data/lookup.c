/* What getaddrinfo(3) of the C library makes of a name: its addresses, or the error, a line each. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

static const char *error_name(int error)
{
	switch (error) {
	case EAI_NONAME: return "EAI_NONAME";
	case EAI_AGAIN: return "EAI_AGAIN";
	case EAI_FAIL: return "EAI_FAIL";
#ifdef EAI_NODATA
	case EAI_NODATA: return "EAI_NODATA";
#endif
	default: return gai_strerror(error);
	}
}

int main(int argc, char **argv)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list, *item;
	int error;

	if (argc != 3)
		return 2;
	hints.ai_family = *argv[1] == '4' ? AF_INET : *argv[1] == '6' ? AF_INET6 : AF_UNSPEC;
	error = getaddrinfo(argv[2], 0, &hints, &list);
	if (error) {
		puts(error_name(error));
		return 1;
	}
	for (item = list; item; item = item->ai_next) {
		char text[256];

		if (getnameinfo(item->ai_addr, item->ai_addrlen, text, sizeof text, 0, 0, NI_NUMERICHOST))
			return 2;
		puts(text);
	}
	return 0;
}
