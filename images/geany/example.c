#include <stdio.h>

int main(void)
{
	puts("It opens.");
	return 0;
}
