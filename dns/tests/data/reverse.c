/* What getnameinfo(3) of the C library makes of an IPv4 address: a name, or the error. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	char name[256];
	int error;

	if (argc != 2 || inet_pton(AF_INET, argv[1], &address.sin_addr) != 1)
		return 2;
	error = getnameinfo((struct sockaddr *)&address, sizeof address, name, sizeof name, 0, 0, NI_NAMEREQD);
	puts(error ? gai_strerror(error) : name);
	return !!error;
}
